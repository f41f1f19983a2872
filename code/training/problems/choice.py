"""Multiple choice with simple physics: the answer is the letter of the right option."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from training.problems import Problem, Step
from training.problems.arithmetic import divide, multiply

_LETTERS = "ABCD"
_OFF_BY = (-10, -5, -3, -2, -1, 1, 2, 3, 4, 5, 6, 10)
"""How far wrong options are from the value."""


@dataclass(frozen=True)
class Task:
    """A problem of one step whose options are still to be made."""

    kind: str
    stem: str
    value: int
    unit: str
    goal: str
    facts: tuple[str, ...]
    plan: str
    step: Step
    check: Step

    def with_options(self, rng: Random) -> Problem:
        """The value among three near it, in random order."""
        near = sorted(self.value + off for off in _OFF_BY if self.value + off > 0)
        options = [*rng.sample(near, 3), self.value]
        rng.shuffle(options)
        letter = _LETTERS[options.index(self.value)]
        listed = []
        for name, option in zip(_LETTERS, options):
            listed.append(f"({name}) {option} {self.unit}")
        pick = Step("the option", f"{self.value} {self.unit} stands at ({letter})", letter)
        return Problem(
            kind=self.kind,
            question=f"{self.stem} {' '.join(listed)}",
            answer=letter,
            goal=self.goal,
            facts=self.facts,
            plan=self.plan,
            steps=(self.step, pick),
            check=(self.check,),
        )


def travel(rng: Random) -> Problem:
    speed, hours = rng.randint(3, 60), rng.randint(2, 9)
    way = speed * hours
    who = rng.choice(("A train", "A car", "A cyclist", "A boat", "A bird"))
    if rng.random() < 0.5:
        stem = rng.choice(
            (
                f"{who} moves at {speed} km per hour for {hours} hours. How far does it get?",
                f"{who} keeps a speed of {speed} km per hour."
                f" Which way is covered in {hours} hours?",
            )
        )
        task = Task(
            kind="travel",
            stem=stem,
            value=way,
            unit="km",
            goal="the distance",
            facts=(f"the speed is {speed} km per hour", f"the time is {hours} hours"),
            plan="distance is speed times time",
            step=Step("the distance", multiply(speed, hours), str(way)),
            check=Step("the speed", divide(way, hours), str(speed)),
        )
        return task.with_options(rng)
    stem = rng.choice(
        (
            f"{who} covers {way} km in {hours} hours. What is its speed?",
            f"{who} needs {hours} hours for {way} km. How fast does it move?",
        )
    )
    task = Task(
        kind="travel",
        stem=stem,
        value=speed,
        unit="km per hour",
        goal="the speed",
        facts=(f"the distance is {way} km", f"the time is {hours} hours"),
        plan="speed is distance divided by time",
        step=Step("the speed", divide(way, hours), str(speed)),
        check=Step("the distance", multiply(speed, hours), str(way)),
    )
    return task.with_options(rng)


def circuit(rng: Random) -> Problem:
    current, resistance = rng.randint(2, 9), rng.randint(3, 40)
    voltage = current * resistance
    if rng.random() < 0.5:
        stem = rng.choice(
            (
                f"A current of {current} A flows through a resistance of {resistance} ohm."
                " What is the voltage?",
                f"Which voltage drives {current} A through {resistance} ohm?",
            )
        )
        task = Task(
            kind="circuit",
            stem=stem,
            value=voltage,
            unit="V",
            goal="the voltage",
            facts=(f"the current is {current} A", f"the resistance is {resistance} ohm"),
            plan="voltage is current times resistance",
            step=Step("the voltage", multiply(current, resistance), str(voltage)),
            check=Step("the resistance", divide(voltage, current), str(resistance)),
        )
        return task.with_options(rng)
    stem = rng.choice(
        (
            f"A voltage of {voltage} V drives a current of {current} A. What is the resistance?",
            f"At {voltage} V a lamp takes {current} A. Which resistance does it have?",
        )
    )
    task = Task(
        kind="circuit",
        stem=stem,
        value=resistance,
        unit="ohm",
        goal="the resistance",
        facts=(f"the voltage is {voltage} V", f"the current is {current} A"),
        plan="resistance is voltage divided by current",
        step=Step("the resistance", divide(voltage, current), str(resistance)),
        check=Step("the voltage", multiply(current, resistance), str(voltage)),
    )
    return task.with_options(rng)


def density(rng: Random) -> Problem:
    volume, per = rng.randint(2, 9), rng.randint(2, 30)
    mass = volume * per
    stuff = rng.choice(("metal", "stone", "glass", "clay", "salt"))
    stem = rng.choice(
        (
            f"A block of {stuff} of {volume} liters has a mass of {mass} kg. What is its density?",
            f"{volume} liters of {stuff} weigh {mass} kg. Which density is that?",
        )
    )
    task = Task(
        kind="density",
        stem=stem,
        value=per,
        unit="kg per liter",
        goal="the density",
        facts=(f"the mass is {mass} kg", f"the volume is {volume} liters"),
        plan="density is mass divided by volume",
        step=Step("the density", divide(mass, volume), str(per)),
        check=Step("the mass", multiply(volume, per), str(mass)),
    )
    return task.with_options(rng)


KINDS = (travel, circuit, density)
