"""PDDM: the unit, its scores, and the mining of hard quadruplets by them."""
