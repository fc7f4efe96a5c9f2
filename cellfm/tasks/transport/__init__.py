"""Transport of cells from one condition to another, such as treated, without paired cells."""
