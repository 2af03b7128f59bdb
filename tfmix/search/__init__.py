"""Search methods put to work on a fake-quant model: in this process, on a cluster, within `fit`."""
