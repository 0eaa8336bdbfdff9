"""What came of a build, and what the manifest and the summary say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from madengine.config.context import Context
from madengine.config.manifest import Manifest
from madengine.errors import EXIT_BUILD_FAILED, EXIT_DONE
from madengine.records import Model
from madengine.results.summaries import BuiltImage, FailedBuild, build_summary


@dataclass(frozen=True)
class BuildOutcome:
    """What a build made and what failed."""

    #: In the plan's order; also those that could not be pushed.
    images: tuple[BuiltImage, ...]
    failures: tuple[FailedBuild, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_BUILD_FAILED if self.failures else EXIT_DONE

    def manifest(
        self,
        registry: str,
        context: Context,
        tools: Mapping[str, Any],
        models: Sequence[Model],
        provided_data: Sequence[str] = (),
    ) -> Manifest:
        """Return the manifest of what was made; `tools` are the package's, `models` all that were to be built.

        `provided_data` are the data sets that the package has providers for.
        """
        required = sorted({model.cred for model in models if model.cred})
        deployment = context.deployment_config
        return Manifest(
            images=tuple(built.image for built in self.images),
            models={built.image.key: built.model for built in self.images},
            registry=registry,
            context=context.for_manifest,
            extra={
                # A node has no tools.json to look its tools up in.
                **({"tools": tools} if tools else {}),
                **({"credentials_required": required} if required else {}),
                **({"deployment_config": deployment} if deployment else {}),
                **({"provided_data": list(provided_data)} if provided_data else {}),
            },
        )

    def summary(self, registry: str, seconds: float) -> dict[str, Any]:
        """Return the content of build_summary.json; what was built and could not be pushed has failed."""
        not_pushed = {failure.image.key for failure in self.failures if failure.image}
        built = [built for built in self.images if built.image.key not in not_pushed]
        return build_summary(built, self.failures, seconds, registry)
