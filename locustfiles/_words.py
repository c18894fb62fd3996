"""Figures as a run says them, to three significant digits."""


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    unit, size = ("s", 1.0) if value >= 0.9995 else ("ms", 1e3)
    return f"{_three(value * size)} {unit}"


def span(value: float) -> str:
    """A time that is looked at go by."""
    whole = max(0, round(value))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def share(value: float) -> str:
    return f"{_three(value * 100)} %" if 0 < value < 0.9995 else f"{value:.0%}".replace("%", " %")


def amount(value: float) -> str:
    """A number that has no unit or is followed by it."""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else _three(value)


def calls(number: int) -> str:
    return f"{number:,} call{'' if number == 1 else 's'}"


def _three(value: float) -> str:
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:#.3g}".rstrip(".") if value >= 1e-4 else f"{value:.2g}"
