"""Private API of other packages, each use fenced in one function with a contract test."""
