"""What other libraries call the tensors of a ViT and write in its config: one file for each family."""
