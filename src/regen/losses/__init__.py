"""What a reconstruction can be held against beyond the squared error, in training and in measuring."""
