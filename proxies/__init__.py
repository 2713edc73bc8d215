"""Whatever gives a network a number, and the images and training that takes."""
