"""Helpers that know nothing of images: files that are whole or not there, locks, signals, progress."""
