"""What is measured on the dense and on the pruned model."""
