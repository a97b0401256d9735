"""How the book is built. A package, so that none of its modules stands in the way of a chapter's imports."""
