"""Submissions of every form behind one interface."""
