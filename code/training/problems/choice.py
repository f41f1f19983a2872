"""Multiple choice with simple physics: the answer is the letter of the right option."""

from random import Random

from training.problems import Problem, Step
from training.problems.arithmetic import divide, multiply

_LETTERS = "ABCD"


def _with_options(rng: Random, kind: str, stem: str, value: int, unit: str, goal: str, facts: tuple[str, ...],
                  plan: str, step: Step, check: Step) -> Problem:
    wrong = {value + d for d in (-10, -5, -3, -2, -1, 1, 2, 3, 4, 5, 6, 10)} - {value}
    options = [*rng.sample(sorted(w for w in wrong if w > 0), 3), value]
    rng.shuffle(options)
    letter = _LETTERS[options.index(value)]
    listed = " ".join(f"({x}) {o} {unit}" for x, o in zip(_LETTERS, options))
    pick = Step("the option", f"{value} {unit} stands at ({letter})", letter)
    return Problem(kind, f"{stem} {listed}", letter, goal, facts, plan, (step, pick), (check,))


def travel(rng: Random) -> Problem:
    speed, hours = rng.randint(3, 60), rng.randint(2, 9)
    way = speed * hours
    who = rng.choice(("A train", "A car", "A cyclist", "A boat", "A bird"))
    if rng.random() < 0.5:
        stem = rng.choice((f"{who} moves at {speed} km per hour for {hours} hours. How far does it get?",
                           f"{who} keeps a speed of {speed} km per hour. Which way is covered in {hours} hours?"))
        return _with_options(rng, "travel", stem, way, "km", "the distance",
                             (f"the speed is {speed} km per hour", f"the time is {hours} hours"),
                             "distance is speed times time", Step("the distance", multiply(speed, hours), str(way)),
                             Step("the speed", divide(way, hours), str(speed)))
    stem = rng.choice((f"{who} covers {way} km in {hours} hours. What is its speed?",
                       f"{who} needs {hours} hours for {way} km. How fast does it move?"))
    return _with_options(rng, "travel", stem, speed, "km per hour", "the speed",
                         (f"the distance is {way} km", f"the time is {hours} hours"),
                         "speed is distance divided by time", Step("the speed", divide(way, hours), str(speed)),
                         Step("the distance", multiply(speed, hours), str(way)))


def circuit(rng: Random) -> Problem:
    current, resistance = rng.randint(2, 9), rng.randint(3, 40)
    voltage = current * resistance
    if rng.random() < 0.5:
        stem = rng.choice((f"A current of {current} A flows through a resistance of {resistance} ohm. What is the"
                           " voltage?", f"Which voltage drives {current} A through {resistance} ohm?"))
        return _with_options(rng, "circuit", stem, voltage, "V", "the voltage",
                             (f"the current is {current} A", f"the resistance is {resistance} ohm"),
                             "voltage is current times resistance",
                             Step("the voltage", multiply(current, resistance), str(voltage)),
                             Step("the resistance", divide(voltage, current), str(resistance)))
    stem = rng.choice((f"A voltage of {voltage} V drives a current of {current} A. What is the resistance?",
                       f"At {voltage} V a lamp takes {current} A. Which resistance does it have?"))
    return _with_options(rng, "circuit", stem, resistance, "ohm", "the resistance",
                         (f"the voltage is {voltage} V", f"the current is {current} A"),
                         "resistance is voltage divided by current",
                         Step("the resistance", divide(voltage, current), str(resistance)),
                         Step("the voltage", multiply(current, resistance), str(voltage)))


def density(rng: Random) -> Problem:
    volume, per = rng.randint(2, 9), rng.randint(2, 30)
    mass = volume * per
    stuff = rng.choice(("metal", "stone", "glass", "clay", "salt"))
    stem = rng.choice((f"A block of {stuff} of {volume} liters has a mass of {mass} kg. What is its density?",
                       f"{volume} liters of {stuff} weigh {mass} kg. Which density is that?"))
    return _with_options(rng, "density", stem, per, "kg per liter", "the density",
                         (f"the mass is {mass} kg", f"the volume is {volume} liters"),
                         "density is mass divided by volume", Step("the density", divide(mass, volume), str(per)),
                         Step("the mass", multiply(volume, per), str(mass)))


KINDS = (travel, circuit, density)
