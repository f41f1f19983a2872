"""What runs on a GPU beside the model: CUDA graphs, attention over a long prefix, drawing."""
