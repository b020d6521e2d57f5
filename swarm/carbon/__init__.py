"""The comparison of arXiv 2507.01803, cloud GPU against laptops and phones, with every input open."""
