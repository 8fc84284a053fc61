"""Does a graph predict what interventions on the real model do?"""
