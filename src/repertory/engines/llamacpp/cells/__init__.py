"""Where cells of generations are: in slots and in main memory; and the ways between."""
