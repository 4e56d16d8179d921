"""Networks: tensors in, tensors out. Nothing here knows of pictures, files or devices."""
