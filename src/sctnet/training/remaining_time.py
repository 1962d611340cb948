"""How long a run will still take, from its own last steps and validations."""

from datetime import timedelta

_MEMORY = 50  # steps, over which changes of the speed are smoothed


class RemainingTime:
    """Estimates the seconds that are left of a run, validations included.

    ``validations_at_end`` is what the end of the run takes, in validations. The seconds of a
    validation are those of the last one, before it an estimate, which may be unknown (None).
    """

    def __init__(
        self,
        iterations: int,
        validate_every: int | None,
        validation_seconds: float | None,
        validations_at_end: float,
    ) -> None:
        self._iterations, self._every = iterations, validate_every
        self.validation_seconds = validation_seconds
        self._at_end = validations_at_end
        self._steps = 0
        self.step_seconds = 0.0

    def step(self, seconds: float) -> None:
        """Take the seconds of a step into account, with all that it waited for.

        The first since the start is left out: it loads and compiles.
        """
        self._steps += 1
        taken = self._steps - 1
        if taken:
            weight = max(1 / taken, 1 / _MEMORY)
            self.step_seconds += weight * (seconds - self.step_seconds)

    @property
    def is_known(self) -> bool:
        """Whether enough steps were taken for an estimate."""
        return self._steps > 3

    def validations(self, validated: int) -> int:
        """Return how many are to come after the one at an iteration (0: after none)."""
        if self._every is None or validated == self._iterations:
            return 0
        return -(-self._iterations // self._every) - validated // self._every

    def seconds(self, iteration: int, validated: int) -> float:
        """Return the seconds that are left after an iteration, the last validation at another."""
        left = self._iterations - iteration
        of_end = self._at_end + self.validations(validated)
        return left * self.step_seconds + of_end * (self.validation_seconds or 0.0)

    def sentence(self, iteration: int, validated: int) -> str:
        """Say how long it will take, and what of it."""
        left, validations = self._iterations - iteration, self.validations(validated)
        whole = f"about {words(self.seconds(iteration, validated))} to go: {left} steps of "
        whole += f"{self.step_seconds:.2f} s"
        if validations and self.validation_seconds is None:
            return f"{whole}, without {validations} validations, which are not known yet"
        if validations:
            whole += f", {validations} validations of {self.validation_seconds:.1f} s"
        if self._at_end:
            of_end = self._at_end * (self.validation_seconds or 0.0)
            whole += f", {words(of_end)} to choose class offsets"
        return whole


def words(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
