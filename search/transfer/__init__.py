"""How the strategy `transfer` thinks: what it believes (`belief`), what it runs next (`choosing`), what it says
(`advice`).
"""
