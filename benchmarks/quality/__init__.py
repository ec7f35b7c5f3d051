"""How accurate it is."""
