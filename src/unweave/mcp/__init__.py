"""The tools of this package for assistants in an editor, by the Model Context Protocol on stdin and stdout."""
