"""What 1, 2, ... ranks do together, in one run: training steps, or one image that they share; and what that costs."""
