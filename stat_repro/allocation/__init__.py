"""Who gets the budget: costs of units, scores that compare layers, sizes per layer."""
