"""How integers are chosen: one file per method, run over a module layer by layer (`solve_weights.solve`).

    mse          clip search                             no calibration
    hqq          half-quadratic splitting                no calibration
    awq          activation-aware scaling + clip search  calibrated; rewrites the neighbours of what it scales
    gptq         second-order error compensation         calibrated
    reconstruct  gptq, then each decoder block learned   calibrated
    tune_scales  after one of the last three             calibrated

Nothing here is imported by the plan's checker: torch is.
"""

if not __name__.startswith("edgec."):  # a second copy of every class would follow
    raise ImportError("import `edgec.passes.solve`, not the folder of a checkout")
