"""The prime learning window in closed form: linear paths, their rates on the saddle, and the recursion itself."""
