"""Coronary CT angiography: volumes, centrelines and meshes, and the straightened images that are made of them."""
