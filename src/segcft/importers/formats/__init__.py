"""Formats of public data sets and archives, an importer each. Modules import late, so that help is instant."""
