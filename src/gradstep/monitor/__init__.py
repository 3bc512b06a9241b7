"""Numbers of a training run: collected inside the step, recorded, shown."""
