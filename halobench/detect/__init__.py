"""Training runs of detectors on images in COCO's format, and how well they find and outline objects."""
