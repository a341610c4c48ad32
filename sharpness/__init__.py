"""How flat or sharp is a minimum, and does that go with how well the network generalises?"""
