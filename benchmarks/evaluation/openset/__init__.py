"""Does a score tell images of unknown labels from those that the bank knows?"""
