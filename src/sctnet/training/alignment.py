"""Semantic information alignment (SIAM): a frozen teacher shapes the student's features."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sctnet.checkpoints.class_map import ClassMap
from sctnet.errors import SctnetError
from sctnet.models import Features, Widths
from sctnet.models.layers import resize
from sctnet.pipeline.preprocessing import PreprocessingConfig
from sctnet.training.distillation import (
    at_larger_size,
    channel_wise_divergence,
    mutual_information_bound,
    pixel_wise_divergence,
    squared_distance,
)
from sctnet.training.projections import fit_projection
from sctnet.training.recipe import AlignmentRecipe
from sctnet.training.shared_head import Moments, Size, through_folded_head
from sctnet.training.teacher_cache import TeacherCache, digest
from sctnet.training.teachers import Answer, MappedTeacher, Teacher, load_teacher

Views = tuple[Int[Tensor, " n"], Int[Tensor, " n"]]
"""The numbers of fixed views, and the checksums of their crops."""


_AS_OURS = PreprocessingConfig()


def scale_alignment(
    student: Float[Tensor, "n c h w"], teacher: Moments
) -> Float[Tensor, "n c h w"]:
    """Give each channel of the student the teacher's mean and std.

    Both are taken over N x H x W, the std unbiased; the student's is increased by 1e-6. Gradients
    flow through the student's statistics. In float32 at least. The paper does not name this step;
    the released code has it between the expanded feature and the teacher's fusion convolution.
    """
    student = student.to(torch.promote_types(student.dtype, torch.float32))
    over = (0, 2, 3)
    centred = student - student.mean(over, keepdim=True)
    standardised = centred / (student.std(over, keepdim=True) + 1e-6)
    mean, std = (statistic[:, None, None] for statistic in teacher.of_batch())
    return standardised * std + mean


class Alignment(nn.Module):
    """The four alignment terms of the paper, and what learns with them.

    Backbone feature alignment meets the teacher at stages 3 and 4 after a 1x1 projection. Shared
    decoder head alignment expands the student's decoder input to what the teacher's head decides
    from, aligns its scale, and sends it through the teacher's own fusion convolution and
    classifier; without it (Table 9) the student's decoder feature is projected and its logits are
    compared as they are.

    With ``projections`` fitted, the first batch sets them before they are used
    (:func:`fit_projection`); else they are random.

    The teacher never learns: its parameters need no gradients, it stays in eval mode, and its own
    pass is not recorded. What learns are the projections (and VID's variances); neither they nor
    the teacher are a part of the student.
    """

    fitted: Tensor

    def __init__(self, recipe: AlignmentRecipe, teacher: Teacher, student: Widths) -> None:
        super().__init__()
        self.recipe = recipe
        if recipe.projections == "fitted":
            # A buffer, so that a run that continues does not fit again.
            self.register_buffer("fitted", torch.tensor(False))
        self.weights = {
            name: weight
            for name in ("logits", "decoder", "stage4", "stage3")
            if (weight := getattr(recipe, name)) > 0
        }
        teacher.requires_grad_(False)
        teacher.eval()
        self.teacher = teacher
        self.cache: TeacherCache | None = None
        self.projections = nn.ModuleDict(self._projections(student))
        self.variances = nn.ParameterDict(self._variances())

    def ask(
        self, images: Float[Tensor, "n 3 h w"], student: Size, views: Views | None = None
    ) -> Answer:
        """Return the teacher's answer for a student whose decoder input has this size.

        About ``views`` that the cache holds, the teacher is not asked again. Asked before the
        student's pass, its own memory is free again when the student needs its most. Raises
        :class:`SctnetError` for stages of other strides than 16 and 32.
        """
        with torch.no_grad():
            if self.cache is None or views is None:
                encoded = self.teacher.encode(images, student)
            else:
                encoded = self.cache.encoded(
                    *views, lambda rows: self.teacher.encode(images[rows], student)
                )
            answer = self.teacher.answer(encoded, student)
        _check_strides(images, answer)
        return answer

    def forward(
        self, images: Float[Tensor, "n 3 h w"], student: Features, answer: Answer | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the unweighted terms by name; each is a mean over the images.

        Without the ``answer`` that :meth:`ask` gave before, the teacher is asked now.
        """
        if answer is None:
            decides = student.logits if student.decoder_input is None else student.decoder_input
            answer = self.ask(images, (decides.shape[2], decides.shape[3]))
        if self.recipe.projections == "fitted" and not self.fitted:
            self._fit(images, student, answer)
        pairs = self._pairs(student, answer)
        return {
            name: self._divergence(name, *at_larger_size(*pairs[name])) for name in self.weights
        }

    def weighted(
        self,
        images: Float[Tensor, "n 3 h w"],
        student: Features,
        answer: Answer | None = None,
        progress: float = 0.0,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the terms times their weights at ``progress``, the part of the run that is over.

        The weights decay as (1 - progress) to the power of the recipe's ``decay``.
        """
        terms = self(images, student, answer)
        left = (1 - progress) ** self.recipe.decay
        return {name: left * self.weights[name] * term for name, term in terms.items()}

    def train(self, mode: bool = True) -> "Alignment":
        """Train the projections; the teacher stays as it is."""
        super().train(mode)
        self.teacher.eval()
        return self

    def fingerprint(self) -> str:
        """Return what changes with the teacher: a digest of its kind, classes and tensors."""
        assert isinstance(self.teacher, nn.Module)
        return digest([str(self.teacher), self.teacher.classes], self.teacher.state_dict())

    def learned_parameters(self) -> list[nn.Parameter]:
        """Return the parameters for the optimiser, at the heads' rate."""
        return [*self.projections.parameters(), *self.variances.parameters()]

    def learned_state(self) -> dict[str, Tensor]:
        """Return the state without the teacher, for a checkpoint."""
        state = self.state_dict()
        return {key: value for key, value in state.items() if not key.startswith("teacher.")}

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        self.load_state_dict({**self.state_dict(), **state})

    def _projections(self, student: Widths) -> dict[str, nn.Module]:
        teacher = self.teacher.widths
        shared = self.recipe.shared_head
        between = {
            "decoder": (student.decoder_input, teacher.decoder_input)
            if shared
            else (student.decoder_feature, teacher.decoder_feature),
            "stage4": (student.stage4, teacher.stage4),
            "stage3": (student.stage3, teacher.stage3),
        }
        # The shared head's logits come out of the expanded feature, too.
        used = {*self.weights, "decoder"} if shared and "logits" in self.weights else self.weights
        projections: dict[str, nn.Module] = {}
        for name in (name for name in between if name in used):
            inside, outside = between[name]
            if teacher.stage3 is None:
                raise SctnetError(
                    f"{self.recipe.teacher}: this teacher shows its logits alone; set "
                    "alignment.decoder=0, alignment.stage4=0, alignment.stage3=0 and "
                    "alignment.shared_head=false"
                )
            if inside is None or outside is None:
                raise SctnetError(
                    "alignment: one of teacher and student has no decoder to align; set "
                    "alignment.decoder=0 and alignment.shared_head=false"
                )
            projections[name] = nn.Conv2d(inside, outside, 1)
        return projections

    @torch.no_grad()
    def _fit(self, images: Float[Tensor, "n 3 h w"], student: Features, answer: Answer) -> None:
        """Set every projection to the linear map that explains the teacher's values best."""
        decoder: Iterable[tuple[Tensor | None, Tensor | None]]
        if self.recipe.shared_head and student.decoder_input is not None:
            parts = student.decoder_input.chunk(
                len(images)
            )  # the teacher's map is the largest of all
            decoder = (
                (part, self.teacher.decoder_input(image))
                for part, image in zip(parts, images.chunk(len(images)), strict=True)
            )
        else:
            decoder = [(student.decoder_feature, answer.decoder_feature)]
        pairs = {
            "stage4": [(student.stage4, answer.stage4)],
            "stage3": [(student.stage3, answer.stage3)],
            "decoder": decoder,
        }
        for name, projection in self.projections.items():
            assert isinstance(projection, nn.Conv2d)
            fit_projection(projection, pairs[name])
        self.fitted.fill_(True)

    def _variances(self) -> dict[str, nn.Parameter]:
        """Return VID's variances; those of the start are log(1 + e^5), about 5."""
        if self.recipe.loss != "vid":
            return {}
        widths = self.teacher.widths
        channels = {
            "logits": len(self.teacher.classes),
            "decoder": widths.decoder_feature or 0,
            "stage4": widths.stage4 or 0,
            "stage3": widths.stage3 or 0,
        }
        return {name: nn.Parameter(torch.full((channels[name],), 5.0)) for name in self.weights}

    def _pairs(self, student: Features, teacher: Answer) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the student's and the teacher's map of every term with a weight."""
        pairs: dict[str, tuple[Tensor, Tensor]] = {"logits": (student.logits, teacher.logits)}
        if "stage4" in self.projections:
            assert teacher.stage4 is not None  # its width is known
            pairs["stage4"] = (self.projections["stage4"](student.stage4), teacher.stage4)
        if "stage3" in self.projections:
            assert teacher.stage3 is not None
            pairs["stage3"] = (self.projections["stage3"](student.stage3), teacher.stage3)
        if "decoder" not in self.projections:
            return pairs
        assert teacher.decoder_feature is not None  # its width is known
        if self.recipe.shared_head:
            feature, logits = self._through_the_teachers_head(student, teacher)
            pairs["logits"] = (logits, teacher.logits)
        else:
            feature = self.projections["decoder"](student.decoder_feature)
        pairs["decoder"] = (feature, teacher.decoder_feature)
        return pairs

    def _through_the_teachers_head(
        self, student: Features, teacher: Answer
    ) -> tuple[Tensor, Tensor]:
        assert student.decoder_input is not None
        assert teacher.decoder_input is not None
        expansion, fusion = self.projections["decoder"], self.teacher.fusion()
        if fusion is not None:
            assert isinstance(expansion, nn.Conv2d)
            return through_folded_head(
                student.decoder_input, expansion, fusion, teacher.decoder_input
            )
        expanded = resize(expansion(student.decoder_input), teacher.decoder_input.size)
        return self.teacher.decode(scale_alignment(expanded, teacher.decoder_input))

    def _divergence(self, name: str, student: Tensor, teacher: Tensor) -> Tensor:
        match self.recipe.loss:
            case "cwd":
                return channel_wise_divergence(student, teacher, self.recipe.temperature)
            case "kl":
                return pixel_wise_divergence(student, teacher, self.recipe.temperature)
            case "l2":
                return squared_distance(student, teacher)
            case "vid":
                return mutual_information_bound(student, teacher, self.variances[name])


def build_alignment(
    recipe: AlignmentRecipe | None,
    student: Widths,
    classes: tuple[str, ...],
    teacher: Teacher | None = None,
    preparation: PreprocessingConfig = _AS_OURS,
) -> Alignment | None:
    """Return the recipe's alignment, None where it has none; without ``teacher``, load it.

    The recipe's map is laid over the teacher, in the order of the data's ``classes``;
    ``preparation`` is that of the student. Raises :class:`SctnetError` for what
    :func:`load_teacher` refuses, and for a teacher whose classes are not the data's, in name and
    order.
    """
    if recipe is None:
        return None
    if teacher is None:
        teacher = load_teacher(recipe.teacher, preparation=preparation)
    if recipe.map is not None:
        class_map = ClassMap(recipe.map, teacher.classes, f"alignment.map of {recipe.teacher}")
        teacher = MappedTeacher(teacher, class_map.ordered(classes)).eval()
    if teacher.classes != classes:
        raise SctnetError(
            f"{recipe.teacher}: this teacher knows {_counted(teacher.classes)}, the data have "
            f"{_counted(classes)}; name and order must agree: give a map (alignment.map), "
            "fine-tune a teacher on these data (sctnet train camvid/teacher_segformer-b2 --data "
            "...), or name the classes when it is converted (--classes)"
        )
    return Alignment(recipe, teacher, student)


def _check_strides(images: Tensor, teacher: Answer) -> None:
    """Raise :class:`SctnetError` unless the stages are those of strides 16 and 32."""
    for name, stage, stride in (("3", teacher.stage3, 16), ("4", teacher.stage4, 32)):
        if stage is None:
            continue
        for pixels, size in zip(images.shape[2:], stage.shape[2:], strict=True):
            if abs(size - pixels / stride) > 1:
                raise SctnetError(
                    f"alignment.teacher: its stage {name} makes {size} of {pixels} pixels, but "
                    f"meets the student's at stride {stride}; name the stage of that stride"
                )


def _counted(classes: tuple[str, ...]) -> str:
    names = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
    return f"{len(classes)} classes ({names})"
