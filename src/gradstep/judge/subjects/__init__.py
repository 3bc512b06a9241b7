"""What is judged, whatever its form, behind one interface."""
