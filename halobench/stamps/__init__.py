"""Scenes to detect objects in, cut and pasted from Debian's stamps and wallpapers, in COCO's format."""
