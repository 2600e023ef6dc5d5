"""The models on offer: files become specs, names find them, folders are looked at again.

Files are read here, never loaded; equal files under several names are one model.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from repertory.domain.errors import ConfigError, LoadFailed, UnknownModel
from repertory.domain.events import Event, ModelAdded, ModelRemoved
from repertory.domain.specs import ModelSpec
from repertory.engines.contract import ModelDescription
from repertory.engines.gguf.facts import OFFERED_WHOLE_TOKENS
from repertory.engines.gguf.files import (
    FileStamp,
    describe_file,
    discover,
    stamp_files,
)
from repertory.engines.llamacpp import CHUNK_TOKENS
from repertory.live.options import ModelChoice

__all__ = ["Catalogue", "Look", "Offer"]

_HANDLE_BYTES_PER_TOKEN = 340
"""Read back from four models of 32,000 tokens: 312 to 325 bytes each over their tensors."""
_USUAL_CONTEXT_TOKENS = 8192
"""Offered where nobody chose: min(trained, 8192) (worker.md, KV)."""
_MOST_WHOLE_TOKENS = 2048
"""Of a prompt that is one batch: up to here its buffers grow as its tokens do; beyond, attention
scores take over, and nobody has measured them."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model on offer, and what the operator said about it."""

    spec: ModelSpec
    weight: float
    is_preloaded: bool
    tokens: int
    """Of its vocabulary: ids are below this."""
    chat_template: str = ""
    only_embeds: bool = False
    """It was trained for embeddings, and generates nothing."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the files found."""

    choices: tuple[ModelChoice, ...]
    """What was looked for."""
    offers: Mapping[str, Offer]
    excluded: Mapping[str, str]
    complaints: tuple[str, ...]
    """Wishes that these files cannot fulfil, each with its place."""
    names: Mapping[str, str]
    """Names and aliases."""

    @property
    def pinned(self) -> dict[ModelSpec, str]:
        """Models to be loaded always, and where that was said."""
        places = {choice.name: choice.places.get("pin", "") for choice in self.choices}
        return {
            offer.spec: places.get(name, "")
            for name, offer in sorted(self.offers.items())
            if offer.spec.is_pinned
        }

    def check(self) -> None:
        """`ConfigError` if a wish cannot be fulfilled."""
        if self.complaints:
            raise ConfigError("\n".join(self.complaints))


class Catalogue:
    """Names, aliases and specs.  `look` reads files; everything else is memory."""

    def __init__(
        self, choices: tuple[ModelChoice, ...], folders: tuple[Path, ...], is_exact: bool = False
    ) -> None:
        self._is_exact = is_exact
        self._choices = choices
        self._folders = folders
        self._stamps: dict[str, tuple[tuple[FileStamp, ...], ModelDescription]] = {}
        self._seen = Look((), {}, {}, (), {})
        """Replaced as a whole: `look` may run on another thread than the readers."""

    @property
    def seen(self) -> Look:
        """The look that is in force."""
        return self._seen

    @property
    def offers(self) -> Mapping[str, Offer]:
        return self._seen.offers

    @property
    def excluded(self) -> Mapping[str, str]:
        """Names that people may ask for in vain, with the reason."""
        return self._seen.excluded

    def look(self, choices: tuple[ModelChoice, ...] | None = None) -> Look:
        """Read the files of these choices (None: of those in force); nothing changes by it."""
        asked = self._choices if choices is None else choices  # another thread may change them
        current, excluded = self._current_choices(asked)
        offers: dict[str, Offer] = {}
        complaints: list[str] = []
        first_names: dict[str, str] = {}
        for choice in current:
            try:
                offer = self._offer(choice)
            except ConfigError as wrong:
                complaints.append(str(wrong))
                excluded[choice.name] = str(wrong)
                continue
            except LoadFailed as unreadable:
                excluded[choice.name] = str(unreadable)
                continue
            first = first_names.setdefault(offer.spec.digest, choice.name)
            if first != choice.name:
                offers[first] = _with_names(offers[first], choice)
            else:
                offers[choice.name] = offer
        names = {alias: name for name, one in offers.items() for alias in (name, *one.spec.aliases)}
        return Look(asked, offers, excluded, tuple(complaints), names)

    def take(self, look: Look) -> list[tuple[str, ModelSpec | None]]:
        """From now on this is on offer; returns what changed: (name, spec), None for one gone."""
        old, offers = self.offers, look.offers
        changed: list[tuple[str, ModelSpec | None]] = [
            (name, offer.spec)
            for name, offer in sorted(offers.items())
            if name not in old or old[name].spec != offer.spec
        ]
        changed += [(name, None) for name in sorted(old.keys() - offers.keys())]
        self._seen, self._choices = look, look.choices
        return changed

    def refresh(self) -> list[tuple[str, ModelSpec | None]]:
        """Look at the files again, and take what is there."""
        return self.take(self.look())

    def events(self, at_ns: int, changed: list[tuple[str, ModelSpec | None]]) -> list[Event]:
        """What the brain must hear of a refresh."""
        return [
            ModelRemoved(at_ns, name) if spec is None else ModelAdded(at_ns, spec)
            for name, spec in changed
        ]

    def find(self, name: str) -> ModelSpec:
        """The model of that name or alias, or `UnknownModel` with the reason or near names."""
        seen = self._seen
        known = seen.names.get(name)
        if known is not None:
            return seen.offers[known].spec
        if name in seen.excluded:
            raise UnknownModel(f"The model {name!r} is not served: {seen.excluded[name]}", "model")
        near = difflib.get_close_matches(name, seen.names, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(repr(one) for one in near)}?" if near else ""
        if not near:
            hint = f" There are {len(seen.offers)} models; GET /v1/models lists them."
        raise UnknownModel(f"There is no model {name!r}.{hint}", "model")

    def _current_choices(
        self, choices: tuple[ModelChoice, ...]
    ) -> tuple[list[ModelChoice], dict[str, str]]:
        if not self._folders:
            return list(choices), {}
        found = [discover(folder, describe=self._describe) for folder in self._folders]
        excluded = {
            Path(one.location).stem: one.reason for discovery in found for one in discovery.excluded
        }
        present = [
            ModelChoice(one.name, Path(one.location))
            for discovery in found
            for one in discovery.models
        ]
        return present, excluded

    def _describe(self, path: Path) -> ModelDescription:
        stamp = stamp_files(path)
        known = self._stamps.get(str(path))
        if known is not None and known[0] == stamp:
            return known[1]
        description = describe_file(path, batch_tokens=CHUNK_TOKENS)
        self._stamps[str(path)] = (stamp, description)
        return description

    def _offer(self, choice: ModelChoice) -> Offer:
        facts = self._describe(choice.path)
        _check_context(choice, facts)
        context = choice.context_tokens or min(facts.trained_context_tokens, _USUAL_CONTEXT_TOKENS)
        buffers_bytes = facts.buffers_bytes
        if facts.takes_whole_prompts:
            asked = choice.context_tokens or OFFERED_WHOLE_TOKENS
            context = min(asked, facts.trained_context_tokens, _MOST_WHOLE_TOKENS)
            buffers_bytes = round(buffers_bytes * max(1.0, context / OFFERED_WHOLE_TOKENS))
        spec = ModelSpec(
            name=choice.name,
            digest=facts.digest,
            location=str(choice.path),
            weights_bytes=facts.weights_bytes,
            layers=facts.layers,
            kv_bytes_per_token=facts.kv_bytes_per_token,
            context_tokens=context,
            buffers_bytes=buffers_bytes,
            handle_bytes=_HANDLE_BYTES_PER_TOKEN * facts.vocabulary_tokens,
            # Repacked weights have other logits, and which form is loaded depends on the load.
            repacked_bytes=0 if self._is_exact else facts.repacked_bytes,
            is_pinned=choice.is_pinned,
            ttl_s=choice.ttl_s,
            aliases=choice.aliases,
            head_bytes=facts.head_bytes,
            kept_bytes=facts.kept_bytes,
            layers_bytes=facts.layers_bytes,
        )
        return Offer(
            spec,
            choice.weight,
            choice.is_preloaded,
            facts.vocabulary_tokens,
            facts.chat_template,
            facts.is_embedding_only,
        )


def _check_context(choice: ModelChoice, facts: ModelDescription) -> None:
    asked, trained = choice.context_tokens, facts.trained_context_tokens
    if asked is not None and 0 < trained < asked:
        place = choice.places.get("context", choice.name)
        raise ConfigError(
            f"{place}: 'models.{choice.name}.context' {asked} is more than the {trained} tokens "
            f"that {choice.path.name} was trained for; write at most {trained}"
        )


def _with_names(offer: Offer, choice: ModelChoice) -> Offer:
    """The same file under one more name."""
    spec = offer.spec
    aliases = (*spec.aliases, choice.name, *choice.aliases)
    is_pinned = spec.is_pinned or choice.is_pinned
    return replace(offer, spec=replace(spec, aliases=aliases, is_pinned=is_pinned))
