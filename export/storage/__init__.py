"""How the graph holds a bank: lists, smaller numbers, prototypes, and what each costs."""
