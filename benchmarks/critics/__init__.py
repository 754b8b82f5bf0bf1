"""
Does a critic rank several actions of one state as the simulator does?
"""
