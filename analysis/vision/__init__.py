"""What is read off networks of images, from their weights."""
