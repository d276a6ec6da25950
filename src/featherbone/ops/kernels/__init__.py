"""Triton kernels of operators that a GPU otherwise runs as dozens of small ones; used only where asked for.

They have not been measured on a GPU. `deployment.use_form(net, "triton")` makes a network use them.
"""
