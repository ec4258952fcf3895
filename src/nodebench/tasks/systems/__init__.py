"""Systems of equations of the field's literature, whose parameters are fitted to their own solutions."""
