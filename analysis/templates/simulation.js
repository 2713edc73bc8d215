drawFigures();
