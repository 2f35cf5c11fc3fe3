"""The figures that ``halobench.plot`` draws, one idea a module; each turns a figure set into matplotlib figures."""
