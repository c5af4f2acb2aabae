"""Files that people and models bring, read with errors that say what is wrong."""
