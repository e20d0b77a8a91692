-- Ready: it answers. Progressing: a change is under way. Degraded: something needs a person.
-- The same script serves ModelDeployment and ModelFleet.
if obj.status == nil or obj.status.conditions == nil then
  return { status = "Progressing", message = "The operator has not seen it yet" }
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "The operator has not seen the newest change yet" }
end

local found = {}
for _, condition in ipairs(obj.status.conditions) do
  found[condition.type] = condition
end

local function holds(type)
  return found[type] ~= nil and found[type].status == "True"
end

local function answer(status, condition)
  local message = condition.message
  if message == nil or message == "" then
    message = condition.reason
  end
  return { status = status, message = message }
end

-- While a change is under way, most faults may pass by themselves: a registry that is away, a pod that waits for a node.
-- A sync that waits goes on waiting then. These do not pass, and a model's old version that still answers hides nothing.
local final = {
  CandidateFailed = true,
  ProgressDeadlineExceeded = true,
  RayServiceRefused = true,
  RolledBack = true,
  VersionFailed = true,
}
-- What the registry says of a version that is served all the same. It is told, and no sync waits for it.
local notices = {
  ArtifactsChanged = true,
  RunLoggedLate = true,
  RunNotEnded = true,
  SeveralInStage = true,
  VersionArchived = true,
  WriteBackFailed = true,
}
local noticed = holds("Degraded") and notices[found["Degraded"].reason]
if holds("Degraded") and not noticed then
  local reason = found["Degraded"].reason
  -- A ModelFleet may come a moment after its models.
  if reason == "FleetNotFound" or (holds("Progressing") and not final[reason]) then
    return answer("Progressing", found["Degraded"])
  end
  -- What failed was the spec before this one, of which nothing is known until the registry answers.
  if holds("Progressing") and found["Progressing"].reason == "Resolving" then
    return answer("Progressing", found["Progressing"])
  end
  return answer("Degraded", found["Degraded"])
end
if holds("Progressing") then
  -- A rollout that waits for somebody to say how it goes on.
  if found["Progressing"].reason == "Paused" then
    return answer("Suspended", found["Progressing"])
  end
  return answer("Progressing", found["Progressing"])
end
if holds("Ready") then
  return answer("Healthy", noticed and found["Degraded"] or found["Ready"])
end
if found["Ready"] ~= nil then
  return answer("Progressing", found["Ready"])
end
return { status = "Progressing", message = "The operator has not said whether it answers" }
