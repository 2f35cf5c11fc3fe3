"""Pictures that tests draw themselves: stamps with outlines, and backgrounds."""

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"round": "red", "square": "blue"}


def stamps(folder, number=6):
    """A folder of stamps in two categories: discs and squares, each of a size of its own."""
    for category, colour in COLOURS.items():
        (folder / category / "deeper").mkdir(parents=True)
        for size in range(40, 40 + 5 * number, 5):
            image = Image.new("RGBA", (size + 10, size + 10))
            draw = ImageDraw.Draw(image)
            shape = draw.ellipse if category == "round" else draw.rectangle
            shape((5, 5, size + 4, size + 4), fill=colour)
            image.save(folder / category / "deeper" / f"{category}{size}.png")
    return folder


def backgrounds(folder, number=4):
    """A folder of grey backgrounds, each darker than the one before, the last in two sizes."""
    folder.mkdir(parents=True)
    for at in range(number):
        grey = Image.fromarray(np.full((120, 160), 240 - 20 * at, np.uint8))
        grey.save(folder / f"grey{at}_160x120.png")
    grey.resize((80, 60)).save(folder / f"grey{number - 1}_80x60.png")
    return folder
