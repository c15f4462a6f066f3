"""Coronary CT angiography: centrelines, vessel surfaces and the straightened images in which both are studied."""
