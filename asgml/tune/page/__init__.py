"""The page of the study: its three questions, a table per data set, three axes, and the predictions held against it."""
