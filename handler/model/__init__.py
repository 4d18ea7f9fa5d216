"""Photos in, detections out: everything about tensors."""
