"""Files of one image, mask, volume, line or mesh, read and written."""
