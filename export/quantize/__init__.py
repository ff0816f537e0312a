"""Post-training quantisation of a bundle's graphs to 8 bits.

layers       which products a graph has
numbers      8-bit numbers: scales, rounding
qdq          the graph with chosen layers between QuantizeLinear and DequantizeLinear, for CPUs or GPUs
takes        roll-outs with everything that may be asked for
calibrate    what layers were given in them
sensitivity  what each layer loses alone, and which to spare under a budget
bench        where stages are judged: short roll-outs against the float bundle
drift        whether rounding grows over long ones
speed        time a call, against float and bfloat16
bundle       all of it, from a bundle to a bundle; results and report say what came of it
"""
