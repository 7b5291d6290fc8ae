"""What a model is calibrated and evaluated on: labelled sentences and running text."""
