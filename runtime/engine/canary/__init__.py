"""Probe pictures with known answers: does a library answer rightly on this machine?"""
