makeSortable(document.getElementById("systems"));
drawFigures();
